"""Policies that generate action chunks: ``flow``, ``diffusion`` and ``act``.

A generated chunk is a sample, so that demonstrations which go left or right around an obstacle are not
averaged into going through it. ``coding`` and ``config`` say what a chunk is, ``objectives`` how noise becomes
one, ``mlp`` and ``backbones`` are the networks (numpy and torch), ``network`` is what algorithms train.
"""
