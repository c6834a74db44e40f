#!/bin/sh
# Runs the models where they lie, on this machine's loopback address: sh docker.sh
set -eu
config=$$(mktemp -d)
cat > "$$config/models.config" <<'EOT'
$models_config
EOT
cat > "$$config/monitoring.config" <<'EOT'
$monitoring_config
EOT
chmod -R a+rX "$$config"
exec docker run --rm $gpu_option --user 65534:65534 --cap-drop ALL --security-opt no-new-privileges \
  --publish 127.0.0.1:$port:8501 --publish 127.0.0.1:$grpc_port:8500 \
  --mount "type=bind,source=$$config,target=/config,readonly" \
  $mounts \
  --entrypoint tensorflow_model_server $image \
  $flags
