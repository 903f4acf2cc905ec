"""Waymo's protocol buffers, with one clear sentence where they are not installed."""

try:
    from waymo_open_dataset.protos import map_pb2, scenario_pb2, sim_agents_submission_pb2
except ImportError as error:
    raise ImportError(
        "Waymo's protocol buffers cannot be imported; "
        "install them with `pip install --no-deps waymo-open-dataset-tf-2-12-0` (and protobuf)"
    ) from error

__all__ = ["map_pb2", "scenario_pb2", "sim_agents_submission_pb2"]
