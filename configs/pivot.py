"""The settings of answers across languages (`respond: pivot`, docs/across-languages.md). See `sections.py`."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, PositiveInt, model_validator

from configs.endpoints import EndpointConfig
from configs.fields import RUN_TIME, BadValue, Fraction, FunctionName


def _check_code(code: str) -> str:
    if not re.fullmatch(r"[A-Za-z][A-Za-z_-]*", code):
        raise BadValue(f"{code!r} is not the code of a language", "write letters, - and _ only, for example th, en or zh")
    return code


Code = Annotated[str, AfterValidator(_check_code)]
"""The code of a language, for example `th`, `en` or `zh`."""
SCRIPTS = {"th": "thai", "en": "latin", "zh": "han", "ja": "kana", "ko": "hangul", "ru": "cyrillic", "lo": "lao", "km": "khmer"}
"""The scripts of languages that `pivot.scope` tells by their letters. Any other language counts as written in Latin ones."""


def script_of(language: str) -> str:
    """The letters that a language is written in."""
    return SCRIPTS.get(language, "latin")


def _check_pattern(pattern: str | None) -> str | None:
    try:
        re.compile(pattern or "")
    except re.error as error:
        raise BadValue(
            f"{pattern!r} is not a regular expression: {error}", "correct it, or put \\ before a sign that is meant itself"
        ) from None
    return pattern


class PivotConfig(EndpointConfig):
    """Only for `respond: pivot`: prompts in one language are answered in another one, and the answers are translated back. The policy, its
    KL, the reward model and all training see the pivot language. Labelers, and people in the report, see both. The settings of an endpoint
    are for `translator: http` only, but `model` is for `seq2seq` too, and `cache` is where both keep what they have translated."""

    language: Code = "en"
    """The pivot language: the one that the policy writes."""
    from_language: Code = "th"
    """The language of the users: prompts come in it, and answers are translated back to it."""
    prompt: Literal["translate", "keep"] = "translate"
    """What the policy reads: the prompt in the pivot language, or the prompt as the user wrote it (`keep`)."""
    scope: Literal["language", "all", "rule"] | FunctionName = "language"
    """Which prompts are answered by way of the pivot language. `language`: those that are mostly written in the letters of
    `from_language`. `rule`: of these, the ones whose source is in `sources` or whose text matches `pattern`. `all`: every prompt, for two
    languages with the same letters. A classifier of yours is named as `file.py:function` or `module:function`: it gets a prompt and its
    source and returns whether the prompt is in the scope. All other prompts are answered directly."""
    sources: list[str] = []
    """Only for `scope: rule`: the data sets, or the parts of them, whose prompts are in the scope, for example `[helpful]`."""
    pattern: Annotated[str | None, AfterValidator(_check_pattern)] = None
    """Only for `scope: rule`: a regular expression. A prompt in whose user turns it is found is in the scope."""
    translator: Literal["dictionary", "seq2seq", "http"] | FunctionName = "dictionary"
    """What translates. `dictionary` is made for the embedded world only. `seq2seq` is a sequence-to-sequence model of transformers, such
    as NLLB or M2M100. `http` asks a language model behind an endpoint. Your own function `translate(texts, source, target)` returns a
    translation of each text, or None."""
    error_rate: Fraction = 0.0
    """Only for `dictionary`: the probability that a phrase is replaced by another one of its kind. The text decides where."""
    model: str = "default"
    """For `seq2seq`, a hub id or a folder, for example `facebook/nllb-200-distilled-600M`. For `http`, the name of the model, as the
    endpoint knows it."""
    model_back: str | None = None
    """Only for `seq2seq`: the model that translates back, for models that know one direction only, such as Marian's. None means `model`."""
    revision: str | None = None
    """Only for `seq2seq`: the branch, tag or commit of a hub model. None means the default branch."""
    codes: dict[str, str] = {}
    """Only for `seq2seq`: what the model calls a language, where its name differs, for example `{th: tha_Thai, en: eng_Latn}` for NLLB.
    These two are known for NLLB already."""
    beams: PositiveInt = 1
    """Only for `seq2seq`: with how many beams it searches. 1 takes the most likely token each time."""
    max_reply_tokens: PositiveInt | None = 256
    """The most tokens of a translation, for `seq2seq` and `http`. A text whose translation is cut off there counts as not translated. None
    leaves the limit to the endpoint or the model."""
    batch_size: Annotated[PositiveInt, RUN_TIME] = 32
    """Only for `seq2seq`: how many texts are translated together."""
    cache: Annotated[str | None, RUN_TIME] = None
    """The folder in which translations are kept, so that no text is translated twice. None means `translations` in the cache of `loop`
    (`LOOP_CACHE`). On a cluster, name a folder that all machines see."""

    @model_validator(mode="after")
    def _check_languages(self) -> "PivotConfig":
        if self.language == self.from_language:
            raise BadValue(
                f"pivot.language and pivot.from_language are both {self.language}", "choose two languages, or leave out respond=pivot"
            )
        if self.scope == "language" and script_of(self.from_language) == script_of(self.language):
            raise BadValue(
                f"{self.from_language} and {self.language} are written in the same letters, so pivot.scope=language cannot tell them apart",
                "set pivot.scope=all, or name a classifier of yours",
            )
        return self

    @model_validator(mode="after")
    def _check_rule(self) -> "PivotConfig":
        is_given = bool(self.sources or self.pattern)
        if is_given != (self.scope == "rule"):
            what = "pivot.sources and pivot.pattern are for pivot.scope=rule" if is_given else "pivot.scope=rule has no rule"
            raise BadValue(what, "set pivot.scope=rule with pivot.sources='[helpful]' or pivot.pattern='hotel', or with none of the three")
        return self
