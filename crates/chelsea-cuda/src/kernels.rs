//! The kernels by their names, what each takes, and how it is launched.
