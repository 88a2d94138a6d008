"""Tiny random reward models that tests write into folders, as other programs would."""

import torch
import transformers
from peft import LoraConfig, get_peft_model

from rewards.scoring import Scorer
from tests.conftest import make_causal_lm, perturb

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "what", "colour", "is", "a", "mango", "yellow", "blue", "?", "."]


def make_decoder(folder, labels=1, kind="LlamaForSequenceClassification", positions=256, template=True, **settings):
    """A Llama of two layers with a chat template, or without. Returns the model and the tokenizer."""
    causal_lm, tokenizer = make_causal_lm()
    config = causal_lm.config.to_dict() | {"num_labels": labels, "max_position_embeddings": positions} | settings
    torch.manual_seed(1)
    model = getattr(transformers, kind)(transformers.LlamaConfig(**{k: v for k, v in config.items() if k not in ("id2label", "label2id")}))
    if not template:
        tokenizer.chat_template = None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model.eval(), tokenizer


def make_encoder(folder, kind="Bert", **settings):
    """A BERT of two layers, or a model like it, which reads two texts."""
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    tokenizer = transformers.BertTokenizer(str(folder / "vocab.txt"))
    torch.manual_seed(2)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 40}
    config = getattr(transformers, f"{kind}Config")(vocab_size=len(WORDS), num_labels=1, initializer_range=0.5, **sizes | settings)
    model = getattr(transformers, f"{kind}ForSequenceClassification")(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model.eval(), tokenizer


def make_of_a_run(backbone, folder):
    """The base of a run and one of its reward models, in `base` and `retrain`. Returns its Scorer, whose scores are shifted and scaled."""
    base, retrain = folder / "base", folder / "retrain"
    backbone.causal_lm.config.pad_token_id = backbone.tokenizer.eos_token_id  # what is at the end of an answer is no padding
    backbone.causal_lm.save_pretrained(base)
    backbone.tokenizer.save_pretrained(base)
    backbone.location = str(base)
    backbone.add_adapter("reward", seed=3)
    perturb(backbone, "reward")
    head = torch.randn(1, backbone.hidden_size, generator=torch.Generator().manual_seed(4))
    scorer = Scorer(backbone, "reward", head, mean=0.5, std=2.0)
    scorer.save(retrain)
    backbone.tokenizer.save_pretrained(retrain)
    return scorer


def make_adapter(model, folder, base, **settings):
    """A PEFT adapter with a head on a model, whose config names `base`. Returns the model with it."""
    torch.manual_seed(5)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], task_type="SEQ_CLS", init_lora_weights=False, **settings))
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    adapted.save_pretrained(folder, save_embedding_layers=False)  # or PEFT would look for the base on the hub
    return adapted.eval()
