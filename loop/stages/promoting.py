"""What `loop promote` asks of a worker: the policy of a round in a form that other programs load. It is part of no run."""

from configs.schema import BaseConfig
from loop.stages.context import Context, Metrics
from loop.store import base_files
from policies.conversion import make_available
from policies.exporting import export_adapter, export_model, export_usage


def promote(context: Context) -> Metrics:
    """Write the policy as a model: the base with the adapter added to its weights."""
    source, base = _base(context)
    found = export_model(context.output, context.inputs["policy"], source, base, context.config.lora)
    return found | _usage(context, source, base)


def promote_adapter(context: Context) -> Metrics:
    """Write the policy as a PEFT adapter."""
    source, base = _base(context)
    export_adapter(context.output, context.inputs["policy"], source, base)
    return _usage(context, source, base)


def _base(context: Context) -> tuple[str, BaseConfig]:
    """Where the base is, and its settings. Raises UserError if it is not the one that the run used."""
    folder = context.inputs["base"]
    make_available(context.config.base.model)
    base_files.check_unchanged(folder)
    return base_files.pinned(context.config.base, folder)


def _usage(context: Context, source: str, base: BaseConfig) -> Metrics:
    """Tokenizer and generation config, which both forms have."""
    is_chat = not isinstance(context.prompts("prompts")[0].prompt, str)
    return export_usage(context.output, source, base, context.config.generation, is_chat)
