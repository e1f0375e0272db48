"""A server of Amazon's S3 by moto, at a port: some requests get 503, and some are answered late."""

import random
import sys
import time

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple

_REFUSED, _LATE, _SECONDS = 0.03, 0.05, 0.5


class Faulty:
    """The application, with faults in front of it."""

    def __init__(self, application):
        self.application, self.rng, self.refused = application, random.Random(0), 0

    def __call__(self, environ, start_response):
        if self.rng.random() < _LATE:
            time.sleep(_SECONDS)
        if self.rng.random() < _REFUSED and environ["PATH_INFO"].count("/") > 1:
            self.refused += 1
            print(f"refused {self.refused}", flush=True)
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start_response("503 Slow Down", [("Content-Type", "application/xml")])
            return [b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"]
        return self.application(environ, start_response)


run_simple("127.0.0.1", int(sys.argv[1]), Faulty(DomainDispatcherApplication(create_backend_app)), threaded=True)
