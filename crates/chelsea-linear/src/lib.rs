//! Quantised weight matrices and their products.
