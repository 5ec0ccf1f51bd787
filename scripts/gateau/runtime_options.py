"""Command-line options that say how a model is run; :class:`gateau.models.Runtime` holds them."""

from __future__ import annotations

import argparse


def add_runtime_options(parser: argparse.ArgumentParser) -> None:
    """Add device, dtype, attention, threads and gpus-per-job."""
    parser.add_argument(
        "--device", default="auto", help="torch device, such as cuda or cpu; auto is CUDA if available, else the CPU"
    )
    parser.add_argument(
        "--dtype", default="auto", help="float32, bfloat16 or float16; auto is bfloat16 on CUDA, else float32"
    )
    parser.add_argument(
        "--attention",
        default="auto",
        help="attention backend of transformers; auto is flash-attn if it is installed and the device is CUDA, else "
        "sdpa, or eager for models with capped logits",
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        help="CPU threads; floating point sums depend on this number in the last digit",
    )
    parser.add_argument(
        "--gpus-per-job",
        type=int,
        default=1,
        help="number of GPUs that the model's layers are spread over; the results do not depend on it",
    )
