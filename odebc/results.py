"Older names, which have moved; see `odebc.moved`. Written by hand, as it has no page."

from odebc.moved import forwarding

__getattr__ = forwarding('results')
