#define SRIGL_WIDTH 4
#define SRIGL_SET plain
#define SRIGL_NAME "plain"
#include "kernels_impl.h"

namespace srigl {
const Kernels& plain_kernels() { return plain::kKernels; }
}  // namespace srigl
