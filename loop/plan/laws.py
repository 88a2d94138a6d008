"""The loss of a base model before it is trained: laws of N parameters and D tokens, and what follows from them in closed form.

    L(N, D) = E + A / N^alpha + B / D^beta        nats a token; E is what no model gets below

The laws differ in their constants only. Each is a fit to models of one maker on one text (MassiveText), so a loss of another tokenizer or
another text is not comparable. What the laws are good for is the comparison of two plans. Plain arithmetic: no torch, no files.
"""

from dataclasses import dataclass

FLOPS_PER_PARAMETER_AND_TOKEN = 6
"""C = 6 N D: two operations for each weight and token forward, four backward. Source: arXiv 2001.08361, section 2.1.
Attention over long rows is not counted."""


@dataclass(frozen=True)
class Law:
    """One fit, and where it was published."""

    name: str
    floor: float
    a: float
    alpha: float
    b: float
    beta: float
    source: str

    def loss(self, params: float, tokens: float) -> float:
        """L(N, D)."""
        return self.floor + self.params_term(params) + self.tokens_term(tokens)

    def params_term(self, params: float) -> float:
        """What is lost because the model is not larger: A / N^alpha."""
        return self.a / params**self.alpha

    def tokens_term(self, tokens: float) -> float:
        """What is lost because there is no more data: B / D^beta."""
        return self.b / tokens**self.beta

    def best_split(self, flops: float) -> tuple[float, float]:
        """The N and D with the lowest loss of all that cost `flops` = 6 N D.

            N = G (C / 6)^a    D = (C / 6)^b / G    G = (alpha A / (beta B))^(1 / (alpha + beta))    a = beta / (alpha + beta)

        Source: arXiv 2203.15556, equation 4.
        """
        both, product = self.alpha + self.beta, flops / FLOPS_PER_PARAMETER_AND_TOKEN
        g = (self.alpha * self.a / (self.beta * self.b)) ** (1 / both)
        return g * product ** (self.beta / both), product ** (self.alpha / both) / g

    def tokens_for(self, loss: float, params: float) -> float | None:
        """The tokens with which `params` parameters reach a loss. None where the model is too small for it, whatever it reads."""
        left = loss - self.floor - self.params_term(params)
        return (self.b / left) ** (1 / self.beta) if left > 0 else None


NOTES = Law("notes", 1.69, 406.4, 0.34, 410.7, 0.27, "the practitioner's notes: Hoffmann's constants with beta 0.27 in place of 0.28")
CHINCHILLA = Law("chinchilla", 1.69, 406.4, 0.34, 410.7, 0.28, "Hoffmann et al., arXiv 2203.15556, equation 10")
EPOCH = Law("epoch", 1.8172, 482.01, 0.3478, 2085.43, 0.3658, "Besiroglu et al. (Epoch AI), arXiv 2404.10102: a refit of the same data")
LAWS = {law.name: law for law in (NOTES, CHINCHILLA, EPOCH)}
"""Their names on the command line. Hoffmann's constants are rounded to two digits in the paper, which biases them (arXiv 2404.10102), so
they give more tokens a parameter than the 20 that the same paper finds in two other ways. The refit gives about 20."""


def training_flops(params: float, tokens: float) -> float:
    """6 N D."""
    return FLOPS_PER_PARAMETER_AND_TOKEN * params * tokens
