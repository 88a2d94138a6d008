"""What a run needs before it starts: memory by owner, time and disk by stage, and what this machine has.

machine.py    what this machine has: cores, memory, GPUs, disk
model.py      the shape of the base, without its weights
needs.py      bytes by owner for each stage
fitting.py    which settings to lower where they do not fit
work.py       how often each stage does what, and the FLOPs of it
trial.py      a child process that times a few steps on a random model, or says which fast paths a model has
report.py     tables and messages

Only trial.py imports torch, and nothing imports it: it is started as a process.
"""
