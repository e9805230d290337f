"""Tables and pictures of what the other parts computed.

Nothing is imported here: a program that prints a table need not wait for matplotlib, which the pictures need.
"""
