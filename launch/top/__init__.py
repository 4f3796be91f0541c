"""`prolong top`: a running buffer's status as a page that refreshes itself, and answers to keys.

speeds.py makes speeds of two statuses, page.py draws them, keyboard.py reads keys, command.py is the loop.
"""
