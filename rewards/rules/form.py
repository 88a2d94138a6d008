"""Rules on the form of a completion: nothing there, a list alone, cut off, small print, odd characters."""

import re

from rewards.rules import texts
from rewards.rules.reply import Reply
from rewards.rules.verdict import Verdict

LIST_LINES = 0.9
"""The most of the lines that may be list items. Gopher, arXiv 2112.11446, appendix A.1.1."""
CUT_OFF_WORDS = 8
"""An English text of fewer words may end without a full stop: it is a name, a title or a short answer."""

_LIST_ITEM = re.compile(r"^\s*(?:[-*•·●▪◦○‣–—๏]|\(?(?:\d{1,3}|[A-Za-z]|[ivx]{1,4})[.)]|(?:ข้อ|ข้อที่)\s*\d+)\s+\S")
_VISIBLE = re.compile(r"[^\s\u200b-\u200f\u2060\ufeff\u00ad]")
_SARA_AM = re.compile(r"\u0e4d[\u0e48-\u0e4b]?\u0e32")
_OPEN = re.compile(r"[\w,(\[{\-–—&/]$")
_FOOTER = re.compile(
    r"copyright\s?(?:©|\(c\)|\d{4})|©\s*(?:copyright|\d{4}|[A-Z])|\(c\)\s*(?:19|20)\d\d|all rights reserved"
    r"|^[^\w\n]*copyright\b[^.!?]{0,60}$"
    r"|\b(?:posted|published|filed|tagged|written|uploaded)\s+(?:by|in|on|under)\b[^.!?\n]{0,60}$"
    r"|\bposted (?:by|in) [^.!?\n]{1,40}\b(?:by|at|on)\b|\b(?:posted|written|uploaded) by admin\b"
    r"|^[^\w\n]*(?:share|tweet|pin|print|email|like) (?:this|it|on)\b[^.!?\n]{0,40}$"
    r"|^[^\w\n]*(?:leave a (?:reply|comment)|read more|continue reading|skip to content|sign up for our newsletter|subscribe to our"
    r" newsletter|follow us on|powered by|related (?:posts|articles)|previous post|next post)\b[^.!?\n]{0,60}$"
    r"|\b(?:terms of (?:use|service)|privacy policy|cookie policy|uses cookies|use of cookies|use cookies)\b"
    r"|lorem ipsum|\benable javascript\b|\byour e-?mail address will not be published\b"
    r"|ที่มา\s*(?::|：|http|www\.)|สงวนลิขสิทธิ์|ลิขสิทธิ์\s*(?:©|\d{4}|โดย)|©|โพสต์โดย|เขียนโดย\s*(?:admin|แอดมิน)"
    r"|^[ \t]*(?:อ่านต่อ|อ่านเพิ่มเติม|แชร์หน้านี้|กดไลก์|ติดตามเราได้ที่|นโยบายความเป็นส่วนตัว|ข้อกำหนดการใช้งาน)[^\n]{0,40}$",
    re.IGNORECASE | re.MULTILINE,
)


def empty(reply: Reply) -> Verdict:
    """Nothing that can be seen. Measured: 1 if the text has white space and invisible characters only.

    The threshold of 0 needs no source.
    """
    return Verdict("empty", float(not _VISIBLE.search(reply.text)), 0.0, "no visible character")


def list_only(reply: Reply) -> Verdict:
    """A list without a sentence around it. Measured: the share of the lines that are list items.

    Source: Gopher, arXiv 2112.11446, appendix A.1.1, refuses documents in which more than 90 % of the lines start with a bullet. Numbers
    and letters with a dot or a bracket count as bullets here, also in Thai digits.
    """
    lines = [line for line in reply.text.splitlines() if line.strip()]
    value = sum(map(is_list_item, lines)) / max(1, len(lines))
    return Verdict("list_only", value, LIST_LINES, "lines that are list items")


def footer(reply: Reply) -> Verdict:
    """The small print of a web page: copyright, "posted by", a source line, links to share, terms of use. Measured: how many there are.

    Source: the phrases about terms, policy and cookies, "lorem ipsum" and JavaScript are those of C4 (arXiv 1910.10683, section 2.2) as
    datatrove's `C4QualityFilter` has them. The others are what the practitioner's notes name and what half of the real pages show.
    """
    return Verdict("footer", float(sum(1 for _ in _FOOTER.finditer(reply.text))), 0.0, "phrases of a footer")


def missing_end(reply: Reply) -> Verdict:
    """The token limit cut the completion off. Measured: 1 if the policy has not ended it itself.

    The threshold of 0 needs no source. It knows of completions that were sampled here only; see `cut_off` for texts of other origin.
    """
    return Verdict("missing_end", float(not reply.finished), 0.0, "no end token")


def cut_off(reply: Reply) -> Verdict:
    """An English text that stops in the middle of a sentence. Measured: 1 if the last line is a sentence without an end.

    Source: C4 (arXiv 1910.10683, section 2.2) keeps lines only that end in a sentence mark. Here the last line counts alone, and list
    items, code, and lines of fewer than eight words do not count. It never fires on Thai or other scripts, which have no such mark.
    """
    last = reply.text.rstrip().rsplit("\n", 1)[-1]
    is_sentence = len(texts.LATIN_WORD.findall(last)) >= CUT_OFF_WORDS and texts.main_script(reply.text) == "latin"
    in_code = reply.text.count("```") % 2 == 1 or last.lstrip().startswith(("```", "#", ">", "|")) or is_list_item(last)
    is_open = bool(_OPEN.search(last)) and not re.search(r"https?://\S+$", last)
    return Verdict("cut_off", float(is_sentence and is_open and not in_code), 0.0, "a last sentence without an end")


def is_list_item(line: str) -> bool:
    """Whether a line is an item of a list: a bullet, or a number or letter with a dot or a bracket, and something after it."""
    return bool(_LIST_ITEM.match(line))


def decomposed_sara_am(reply: Reply) -> Verdict:
    """The Thai vowel sara am as two characters, which look the same on the screen. Measured: how many there are.

    Source: the Unicode Standard gives U+0E33 only a compatibility decomposition (U+0E4D U+0E32), so NFC does not join them. A tone mark may
    stand between the two. The threshold of 0 is that of `pythainlp.util.normalize`, which replaces each of them.
    """
    return Verdict("decomposed_sara_am", float(len(_SARA_AM.findall(reply.text))), 0.0, "decomposed vowels")
