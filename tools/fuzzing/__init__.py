"""What tools/fuzz.py is made of: a good set-up, kinds of input, operators, a child, a judge."""
