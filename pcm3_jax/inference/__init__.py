"""Using a trained model: features, labels and reconstructions of any skeletons."""
