"""Jobs: what is to be run as an immutable bundle, launchers that run it, and the supervisor that starts it again.

    bundle      what a job is: resolved experiment, code, environment, topology, command, retry policy
    retry       when a run is started again, and after how long
    supervisor  N processes on this machine, started together, ended together, started again
    launchers   a bundle as what SLURM, Kubernetes, xpk and gcloud take
    jobs        the jobs that this user has submitted
    sweep       many runs of one experiment, and the page that compares them

Another launcher is a function and an entry in `launchers.LAUNCHERS`.
"""
