/** How the threads of this library share the cores with the JavaScript thread. Linux; elsewhere nothing is changed. */
#ifndef OMNIGRAD_CORE_SCHEDULING_H
#define OMNIGRAD_CORE_SCHEDULING_H

namespace og {

/**
 * Called by a computing thread on itself: it runs below the JavaScript thread (nice 3), so that on a full machine the
 * event loop still turns. Executor and helpers take the same step down: they wait for each other's chunks. It is a
 * small step: on a machine busy with other work a low priority would stall every kernel.
 */
void run_below_event_loop();

/**
 * Called on the JavaScript thread: asks for short time slices, which lets a waking thread run at once where it would
 * wait for the end of a computing thread's slice. Its share of the cores stays as it is. Kernels before Linux 6.12 take
 * no notice; a thread under another policy than the default one is left alone.
 */
void prefer_short_slices();

}  // namespace og

#endif
