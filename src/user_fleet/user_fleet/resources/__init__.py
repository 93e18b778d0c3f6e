"""What a host has, found without configuration: :mod:`.inventory`; what it is made of: :mod:`.model`."""
