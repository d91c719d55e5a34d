// All kernels as one translation unit: what the build compiles.
#include "attention.cu"
#include "columns.cu"
#include "cross_entropy.cu"
#include "elementwise.cu"
#include "norm.cu"
#include "rows.cu"
