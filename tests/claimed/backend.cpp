// A CUDA device for torch built without one: its memory is the CPU's, its kernels come from Python (device.py).
//
// torch looks for a device in four places: hooks (is there one), an allocator (its memory), a guard (which one is
// current) and a generator (its random numbers). Each is filled here with the least that torch asks for.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

namespace {

const c10::Device DEVICE(c10::kCUDA, 0);

// A storage on DEVICE over the bytes of a CPU storage, which it keeps alive and can give back.
c10::DataPtr on_device(const c10::Storage& host) {
  auto* kept = new c10::Storage(host);
  auto forget = [](void* it) { delete static_cast<c10::Storage*>(it); };
  return {kept->mutable_data(), kept, forget, DEVICE};
}

c10::Storage device_storage(const at::Tensor& host) {
  const c10::Storage& bytes = host.storage();
  return {c10::Storage::use_byte_size_t(), bytes.nbytes(), on_device(bytes), nullptr, false};
}

at::Tensor like(at::Tensor made, const at::Tensor& shape) {
  made.unsafeGetTensorImpl()->set_sizes_and_strides(shape.sizes(), shape.strides(), shape.storage_offset());
  return made;
}

at::Tensor to_device(const at::Tensor& host) {
  c10::DispatchKeySet key(c10::DispatchKey::CUDA);
  return like(at::detail::make_tensor<c10::TensorImpl>(device_storage(host), key, host.dtype()), host);
}

at::Tensor to_host(const at::Tensor& tensor) {
  auto* kept = static_cast<c10::Storage*>(tensor.storage().data_ptr().get_context());
  TORCH_CHECK(kept != nullptr, "claimed device: a tensor without memory");
  c10::DispatchKeySet key(c10::DispatchKey::CPU);
  return like(at::detail::make_tensor<c10::TensorImpl>(c10::Storage(*kept), key, tensor.dtype()), tensor);
}

// What `host_view` is of the CPU twin of `base`: a view that shares the storage of `base`.
at::Tensor view_of(const at::Tensor& base, const at::Tensor& host_view) {
  c10::Storage shared = base.storage();
  auto kind = c10::TensorImpl::VIEW;
  return like(at::detail::make_tensor<c10::TensorImpl>(kind, std::move(shared), base.key_set(), host_view.dtype()), host_view);
}

// After an operation gave the CPU twin other memory or another shape.
void follow(const at::Tensor& tensor, const at::Tensor& host) {
  tensor.unsafeGetTensorImpl()->set_storage_keep_dtype(device_storage(host));
  like(tensor, host);
}

TORCH_LIBRARY(claimed_device, library) {
  library.def("to_device(Tensor host) -> Tensor", to_device);
  library.def("to_host(Tensor tensor) -> Tensor", to_host);
  library.def("view_of(Tensor base, Tensor host_view) -> Tensor", view_of);
  library.def("follow(Tensor tensor, Tensor host) -> ()", follow);
}

struct DeviceAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    return on_device(c10::Storage(c10::Storage::use_byte_size_t(), bytes, c10::GetAllocator(c10::kCPU), true));
  }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }
} device_allocator;
REGISTER_ALLOCATOR(c10::kCUDA, &device_allocator)

struct DeviceGenerator final : at::CPUGeneratorImpl {
  DeviceGenerator() { device_ = DEVICE; }
};

struct CUDAHooks final : at::CUDAHooksInterface {
  explicit CUDAHooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  at::Generator getNewGenerator(c10::DeviceIndex) const override { return at::make_generator<DeviceGenerator>(); }
  c10::Allocator* getPinnedMemoryAllocator() const override { return c10::GetAllocator(c10::kCPU); }
};

struct DeviceGuard final : c10::impl::NoOpDeviceGuardImpl<c10::kCUDA> {
  c10::Device getDevice() const override { return DEVICE; }
  c10::Device exchangeDevice(c10::Device) const override { return DEVICE; }
  c10::Stream getStream(c10::Device) const noexcept override { return c10::Stream(c10::Stream::DEFAULT, DEVICE); }
  c10::Stream exchangeStream(c10::Stream) const noexcept override { return c10::Stream(c10::Stream::DEFAULT, DEVICE); }
  void record(void**, const c10::Stream&, c10::DeviceIndex, c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
};
C10_REGISTER_GUARD_IMPL(CUDA, DeviceGuard)

}  // namespace

namespace at {
REGISTER_CUDA_HOOKS(CUDAHooks)
}
