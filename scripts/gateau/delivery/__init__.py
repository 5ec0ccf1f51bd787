"""What a run hands to other programs: all rows with their scores, and a data set of each experiment."""
