"""What a run needs before it starts: memory by owner, time and disk by stage, and what this machine has.

machine.py       what this machine has: cores, memory, GPUs, disk
model.py         the shape of the base, without its weights
lengths.py       how long prompts and completions are
needs.py         bytes by owner for each stage
fitting.py       which settings to lower where they do not fit
work.py          how often each stage does what, and the FLOPs of it
trial.py         a child process that times a few steps on a random model, or says which fast paths a model has
measuring.py     starts that process
report.py        tables and messages
before_a_run.py  what `loop run` says and refuses before its first stage

Only trial.py imports torch, and nothing imports it: it is started as a process.
"""
