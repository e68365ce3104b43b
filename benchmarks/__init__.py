"""What a hit and a miss cost, beside the same stream without a cache."""
