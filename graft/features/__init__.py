"""Cached features: computed once by frozen layers, read in every epoch, fold and run.

    file ─ImageReader─► image ─augmentation─► view ─FrozenLayers─► feature ─ModelTail─► logits
                                                                    │   ▲
                                                      FeatureWriter │   │ CachedFeatures
                                                                    ▼   │
                                                                 FeatureStore

1. A view is an image, augmented in one of ``cache.views`` ways. Frozen layers in eval mode map it to the same feature
   in every epoch. A ``SplitModel`` is a model with its first trainable stage; everything before that is frozen.
2. ``training.batch_sources`` starts here: ``feature_cache.cache_training_features`` and ``cache_evaluation_features``
   compute the features that a ``FeatureStore`` on disk lacks, and return a ``FeatureSource``. ``precompute`` does this
   ahead of time for several stages in one pass.
3. The source yields batches of features in place of images, in the order that ``loaders.TrainingBatches`` draws.
   ``CachedFeatures`` reads them from the store; if caching is slower than computing, or the cache has no room,
   ``RecomputedFeatures`` computes the same bits again.
4. A ``ModelTail`` is the model from the first trainable stage on: features in, logits out.
5. If nothing is frozen, only decoded images can be cached: ``image_cache.cached_reader``.
"""
