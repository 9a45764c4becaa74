"""Benchmarks: ratios between things measured interleaved in one run, never absolute promises.

A *scenario* (scenarios/) names what is compared: its *contenders*, each a function that takes so many samples, and the
ratios between them that are of interest, with their targets. ``sampling`` takes the samples in rounds in which each
contender has its turn, so that a slow spell of the machine hits all alike. ``results`` holds them with the machine's
facts (``machine``), ``statistics`` says what they are worth, ``report`` and ``plots`` show them.

peers/ has the tools that others would call, floor/ the same in C, as fast as we can write it, and ``inprocess`` what is
measured within Python programs of their own. ``timeline`` shows where the time of one start goes.
"""
