"""Checkpoints: save, verify, restore, initialise from another run.

    store      what a training run holds: saves in the background, keeps what the policy says
    reading    a commit back into arrays, on any mesh; another run's parameters as a start
    layout     where commits lie, and which directories are commits
    manifest   the JSON of a commit: what it holds, and the digests that prove it
    digest     fingerprints of arrays that do not depend on how they are sharded
    leaves     a tree of arrays as {dotted path: array}, and whether two of them fit
    retention  which commits stay
    arrays     the one module that talks to Orbax
    noise      what Orbax says that a user need not read
    remote     object stores that Orbax cannot reach
    workdir    what stands beside the checkpoints

Importing this package imports none of them: listing commits and reading a manifest need neither JAX nor Orbax.
"""
