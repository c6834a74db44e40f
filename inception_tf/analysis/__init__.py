"""What networks cost, what they see, and where: costs, receptive fields, class maps, dense evaluation."""
