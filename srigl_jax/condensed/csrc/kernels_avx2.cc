#if defined(__x86_64__)
#define SRIGL_WIDTH 8
#define SRIGL_SET avx2
#define SRIGL_NAME "avx2"
#include "kernels_impl.h"

namespace srigl {
const Kernels& avx2_kernels() { return avx2::kKernels; }
}  // namespace srigl
#endif
