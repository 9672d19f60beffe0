"""How a stranger's `.pt` file is read without running it; `duet.increments.guard` opens the door.

A `.pt` file is a pickle: a program for a small stack machine whose instructions can import and call
anything. `machine` is another machine for the same instructions, one that can only build plain
data. `known` lists the names that such data may bear, `rebuild` says what becomes of each call,
`archive` reads the file around the pickle, and `network` reads layers out of the data.
"""
