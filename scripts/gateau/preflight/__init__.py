"""Checks of a configured run before hours are spent on it.

:func:`gateau.preflight.cheap.cheap_checks` reads the configuration, folders and small files only, and imports neither
numpy nor torch, so that Snakemake can call it before the first job. :func:`gateau.preflight.thorough.all_checks` also
parses rows, loads tokenizers, asks the hub, and estimates memory and disk.
"""
