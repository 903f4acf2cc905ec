"""An S3 server of our own for tests."""

import logging

import pytest

BUCKET = "stores"
DISPATCHER = "moto.moto_server.werkzeug_app.DomainDispatcherApplication"


@pytest.fixture(scope="session")
def s3_server():
    """Runs a moto server with one bucket; skips where moto or s3fs is not installed."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server")
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line a request, which pytest keeps
    running.start()
    host, port = running.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{DISPATCHER}.get_backend_for_host", lambda *_: "s3")  # else it looks for others at each request
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(name, value)
        import s3fs

        s3fs.S3FileSystem().mkdir(BUCKET)
        yield f"s3://{BUCKET}"
        s3fs.S3FileSystem.clear_instance_cache()
    running.stop()


@pytest.fixture
def s3(s3_server, request):
    """A place of its own for this test."""
    return f"{s3_server}/{abs(hash(request.node.nodeid))}"
