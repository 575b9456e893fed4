"""What a tagger is: words that become tags, the network, its folder, and its text."""
