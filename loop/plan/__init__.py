"""What a plan costs before anything is trained or rented: `loop plan base` and `loop plan run`.

laws.py      the loss of a base model from its parameters and tokens, under three laws
gpus.py      GPUs, their prices and currencies, from a table that you edit (gpus.yaml)
known.py     models whose parameters and tokens are published, and figures that somebody printed (notes.yaml)
base.py      `plan base`: loss, operations, hours, price, the best split of a budget, plans of equal loss
chart.py     its plot: the only file here that imports matplotlib, and only when it is asked to draw
running.py   `plan run`: operations, time, memory, labels and price of a run by stage and round, by the doctor's prediction
trades.py    what the same money could buy instead: a round, labels, a larger base, best-of-n
tables.py    all of that as tables

Everything is arithmetic. Must never import torch.
"""
