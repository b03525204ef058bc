"""Scaling: in come rules and the demand of their queues, out go decisions and changes of container groups at
Salad.
"""
