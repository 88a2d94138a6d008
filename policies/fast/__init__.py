"""How the language model is made fast. Nothing here imports anything else of this project.

batches.py    padded batches, and the same tokens without padding
attention.py  attention over unpadded tokens
kv_cache.py   a KV cache that does not copy
precision.py  what is float32 where the base is not
lora.py       the arithmetic of LoRA layers, forward and backward
functions.py  the parts of a decoder layer as autograd functions
layers.py     puts these functions in the place of transformers' modules
model.py      hidden states by the fastest way that gives transformers' numbers
logprobs.py   log-probabilities of tokens without keeping their logits
entropies.py  entropies of their distributions, likewise
sampling.py   a batch that is decoded token by token
comparing.py  how near two ways to the same numbers must be
probe.py      compares each fast way with transformers', and keeps those that agree
"""
