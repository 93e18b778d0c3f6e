"""Success classifiers from labelled episodes: frames, training, and how good one is."""
