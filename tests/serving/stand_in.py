"""Stands for `tensorflow_model_server`: takes its flags and its files, and is the local server then.

The flags are those of tensorflow_serving/model_servers/main.cc, 2.20; another one ends it as it ends Serving.
"""

import argparse
import os
import sys
from pathlib import Path

from google.protobuf import text_format
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

FLAGS = """port grpc_socket_path rest_api_port rest_api_num_threads rest_api_timeout_in_ms rest_api_enable_cors_support
enable_batching allow_version_labels_for_unavailable_models batching_parameters_file
enable_per_model_batching_parameters model_config_file model_config_file_poll_wait_seconds model_name model_base_path
num_load_threads num_unload_threads max_num_load_retries load_retry_interval_micros file_system_poll_wait_seconds
flush_filesystem_caches tensorflow_session_parallelism tensorflow_session_config_file
tensorflow_intra_op_parallelism tensorflow_inter_op_parallelism use_alts_credentials ssl_config_file
platform_config_file per_process_gpu_memory_fraction saved_model_tags grpc_channel_arguments grpc_max_threads
enable_model_warmup num_request_iterations_for_warmup version monitoring_config_file
remove_unused_fields_from_bundle_metagraph prefer_tflite_model num_tflite_pools num_tflite_interpreters_per_pool
enable_signature_method_name_check xla_cpu_compilation_enabled xla_gpu_compilation_enabled enable_profiler
thread_pool_factory_config_file mixed_precision skip_initialize_tpu enable_grpc_healthcheck_service
enable_serialization_as_tensor_content"""


def parser():
    parser = argparse.ArgumentParser("tensorflow_model_server", allow_abbrev=False)
    for flag in FLAGS.split():
        parser.add_argument(f"--{flag}", nargs="?", const="true")
    return parser


if __name__ == "__main__":
    args = parser().parse_args()
    config = text_format.Parse(Path(args.model_config_file).read_text(), ModelServerConfig())
    (model,) = config.model_config_list.config
    command = [sys.executable, "-m", "inception_tf", "serve", model.base_path, "--engine", "local", "--poll", "0.2"]
    os.execv(sys.executable, [*command, "--port", args.rest_api_port, "--grpc-port", args.port])
