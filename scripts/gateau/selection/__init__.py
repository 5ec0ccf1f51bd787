"""Selection: from merged scores to rankings, selected rows, comparisons and plots."""
