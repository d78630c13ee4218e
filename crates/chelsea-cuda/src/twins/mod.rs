//! What kernels compute, written plainly: scalar twins that tests hold them against.
