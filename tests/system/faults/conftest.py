import pytest
from system.faults.job import Job


@pytest.fixture
def submit(tmp_path, hasty_environment):
    """Submits a job in an empty directory; what is left of it at the end is killed."""
    jobs = []

    def start(*flags, **options):
        jobs.append(Job(tmp_path, hasty_environment, *flags, **options))
        return jobs[-1]

    yield start
    for job in jobs:
        if job.supervisor.poll() is None:
            job.kill()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, hasty_environment):
    """The digest of the last commit of two processes that nothing disturbs."""
    job = Job(tmp_path_factory.mktemp("undisturbed"), hasty_environment)
    job.finish()
    return job.digest()
