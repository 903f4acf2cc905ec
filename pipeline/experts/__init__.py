"""Expert actions: closed-loop search, replay, augmentation."""
