"""Who gets what: :mod:`.experiment` says what is asked for, :mod:`.plan` matches it with what there is."""
