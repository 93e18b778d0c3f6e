"""Pretrained networks that turn images into features.

``config`` says which, ``pretrained`` loads one (frozen ones once in a process), ``efficientnet_lite`` is a
network that needs nothing but torch.
"""
