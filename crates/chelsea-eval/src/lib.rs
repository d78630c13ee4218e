//! Recall and quality tasks over clustered caches.
