"""Runs the challenge's own scorer; for an environment of its own, which benchmarks.wosac_parity makes.

    python wosac_official.py SUBMISSION SCENES.tfrecord OUT.json [FEATURES.npz]

Nothing of this project is imported here: it needs other versions of almost everything. Nothing of the scorer is copied.
"""

import dataclasses
import json
import os
import struct
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def records(path):
    """The payloads of a TFRecord file, whose checksums are not looked at."""
    data, place = Path(path).read_bytes(), 0
    while place < len(data):
        (length,) = struct.unpack_from("<Q", data, place)
        yield data[place + 12 : place + 12 + length]
        place += 16 + length


def main(submission, scenes, out, features=None):
    """Score a submission's scenes that are in a TFRecord file, and write numbers and features."""
    import numpy as np
    import tensorflow as tf
    from google.protobuf import text_format
    from waymo_open_dataset.protos import scenario_pb2, sim_agents_metrics_pb2, sim_agents_submission_pb2
    from waymo_open_dataset.utils.sim_agents import submission_specs
    from waymo_open_dataset.wdl_limited.sim_agents_metrics import metric_features, metrics

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    kind = submission_specs.ChallengeType.SIM_AGENTS
    configs = {}
    for year, name in ((2025, "challenge_2025_sim_agents_config"), (2024, "challenge_2024_config")):
        text = (Path(metrics.__file__).parent / f"{name}.textproto").read_text()
        configs[year] = text_format.Parse(text, sim_agents_metrics_pb2.SimAgentMetricsConfig())
    message = sim_agents_submission_pb2.SimAgentsChallengeSubmission.FromString(Path(submission).read_bytes())
    rollouts = {found.scenario_id: found for found in message.scenario_rollouts}
    results, arrays = {}, {}
    for data in records(scenes):
        scenario = scenario_pb2.Scenario.FromString(data)
        name = scenario.scenario_id
        if name not in rollouts:
            continue
        submission_specs.validate_scenario_rollouts(rollouts[name], scenario)
        log, drives = metric_features.compute_scenario_rollouts_features(scenario, rollouts[name], kind)
        results[name] = {
            str(year): {
                field.name: value
                for field, value in metrics.compute_scenario_metrics_for_features_bundle(
                    config, name, log, drives
                ).ListFields()
            }
            for year, config in configs.items()
        }
        for prefix, found in (("log", log), ("sim", drives)):
            for field in dataclasses.fields(found):
                arrays[f"{name}/{prefix}_{field.name}"] = np.asarray(getattr(found, field.name))
        print(f"{name}: realism 2025 {results[name]['2025']['metametric']:.4f}", flush=True)
    Path(out).write_text(json.dumps(results, indent=1))
    if features:
        np.savez_compressed(features, **arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])
