"""Data of other formats: import into a store, export from one, and mappings between them.

A *source* (:mod:`~user_learner.data.source`) is a data set in any installed format. A *mapping*
(:mod:`~user_learner.data.mapping`) says what its arrays are to a robot, and a *conversion*
(:mod:`~user_learner.data.conversion`) turns numbers of one meaning into those of another. Import
and export are :mod:`~user_learner.data.importing` and :mod:`~user_learner.data.exporting`.
"""
