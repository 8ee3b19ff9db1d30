"""Torture for index folders: kills, failing files, full disks, power cuts.

    children.py   functions in forked children that may be killed, in a fresh process that may be preloaded
    world.py      random operations, a dict that says what each makes of the documents, and the check
    kills.py      SIGKILL at random moments and at every named step
    shim.c, .py   the n-th file operation below a folder fails, is cut short, kills the process, or is recorded
    faults.py     every file operation of every operation fails; full disks, read-only folders, little memory
    powercut.py   what a disk may hold when the power goes, made from recorded file operations

Each has a function `run` that gives a list of `result.Result`; `make torture` calls them with large numbers, the tests
with small ones.
"""
