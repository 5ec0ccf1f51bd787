"""The files of the benchmarks: the table of pinned files, downloads, verification, and one folder per benchmark."""
