#!/bin/sh
# Serves the folder above this one: REST on 8501, gRPC on 8500, both on this machine only.
set -eu
export_folder=$(cd "$(dirname "$0")/.." && pwd)
exec docker run --rm --user "$(id -u):$(id -g)" --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges \
  -p 127.0.0.1:8500:8500 -p 127.0.0.1:8501:8501 \
  -v "$export_folder:/models/out:ro" \
  --entrypoint tensorflow_model_server tensorflow/serving:2.21.0 \
  --port=8500 --rest_api_port=8501 --rest_api_timeout_in_ms=30000 \
  --model_config_file=/models/out/serving/models.config \
  --enable_batching --batching_parameters_file=/models/out/serving/batching.config \
  --monitoring_config_file=/models/out/serving/monitoring.config
