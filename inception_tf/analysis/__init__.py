"""What networks cost, and where in an image they find what: costs, receptive fields, class maps, dense evaluation."""
