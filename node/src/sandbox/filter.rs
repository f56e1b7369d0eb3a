//! Which system calls a run may make.
//!
//! A deny list: what reaches beyond the run's own memory, files and sockets, or has been a way into the kernel, is refused.
//! The rest of the confinement does not depend on it, except in lite confinement, where it stands in for the network
//! namespace and for what Landlock does not cover (file modes, owners, times; signals on older kernels).

use std::{collections::BTreeMap, io};

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
};

use super::message::Confinement;

/// What a filter is for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subject {
    pub(super) confinement: Confinement,
    /// Built-in algorithms neither execute programs nor make processes.
    pub(super) builtin: bool,
    /// The run's first process as itself sees it.
    pub(super) pid: u32,
}

/// Applies the filters to this thread and all that come of it. There is no way back.
pub(super) fn apply(subject: Subject) -> io::Result<()> {
    for program in programs(subject).map_err(io::Error::other)? {
        seccompiler::apply_filter(&program).map_err(io::Error::other)?;
    }
    Ok(())
}

fn programs(subject: Subject) -> Result<Vec<BpfProgram>, seccompiler::BackendError> {
    let mut refused: BTreeMap<c_long, Vec<SeccompRule>> = BTreeMap::new();
    refused.extend(REFUSED.iter().map(|&call| (call, Vec::new())));
    refused.insert(libc::SYS_clone, clone_rules(subject.builtin)?);
    refused.insert(libc::SYS_prctl, vec![equals(0, PR_SET_PDEATHSIG)?, equals(0, PR_SET_MM)?]);
    refused.insert(libc::SYS_ioctl, vec![equals(1, libc::TIOCSTI)?, equals(1, TIOCLINUX)?]);
    refused.insert(libc::SYS_socket, vec![none_of(0, &[libc::AF_UNIX, libc::AF_INET, libc::AF_INET6])?]);
    if subject.builtin {
        refused.extend(REFUSED_TO_BUILTIN.iter().map(|&call| (call, Vec::new())));
        for call in [libc::SYS_kill, libc::SYS_tgkill, libc::SYS_rt_sigqueueinfo, libc::SYS_rt_tgsigqueueinfo] {
            refused.insert(call, vec![differs(0, u64::from(subject.pid))?]);
        }
    }
    if subject.confinement == Confinement::Lite {
        refused.extend(REFUSED_TO_LITE.iter().map(|&call| (call, Vec::new())));
        for call in CALLS_ON_OTHERS {
            refused.insert(*call, vec![differs(0, 0)?]);
        }
        // Only what stays connected to its other end: a datagram socket could be turned to any address of the host.
        let mut pairs = vec![none_of(0, &[libc::AF_UNIX])?];
        for kind in (0..16).filter(|kind| ![libc::SOCK_STREAM, libc::SOCK_SEQPACKET].contains(kind)) {
            pairs.push(masked(1, 0xf, kind as u64)?);
        }
        refused.insert(libc::SYS_socketpair, pairs);
        refused.insert(
            libc::SYS_sendto,
            vec![SeccompRule::new(vec![SeccompCondition::new(4, SeccompCmpArgLen::Qword, SeccompCmpOp::Ne, 0)?])?],
        );
    }
    let absent = ABSENT.iter().map(|&call| (call, Vec::new())).collect();
    let mut programs = vec![compile(refused, libc::EPERM)?, compile(absent, libc::ENOSYS)?];
    if cfg!(target_arch = "x86_64") {
        programs.push(without_x32());
    }
    Ok(programs)
}

fn compile(rules: BTreeMap<c_long, Vec<SeccompRule>>, errno: i32) -> Result<BpfProgram, seccompiler::BackendError> {
    let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
    let action = SeccompAction::Errno(errno.unsigned_abs());
    SeccompFilter::new(rules, SeccompAction::Allow, action, architecture)?.try_into()
}

/// Refuses the second set of call numbers of x86-64, which a list of the first does not match.
fn without_x32() -> BpfProgram {
    const X32: u32 = 0x4000_0000;
    let statement = |code: u32, jump_true: u8, k: u32| sock_filter { code: code as u16, jt: jump_true, jf: 0, k };
    vec![
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 1, X32),
        statement(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW),
        statement(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs()),
    ]
}

fn clone_rules(builtin: bool) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    let mut rules = Vec::new();
    for flag in [
        libc::CLONE_NEWNS,
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWNET,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWCGROUP,
        // A process that is nobody's child would outlive what watches it.
        libc::CLONE_PARENT,
    ] {
        let flag = u64::from(flag.unsigned_abs());
        rules.push(masked(0, flag, flag)?);
    }
    if builtin {
        rules.push(masked(0, u64::from(libc::CLONE_THREAD.unsigned_abs()), 0)?);
    }
    Ok(rules)
}

fn equals(argument: u8, value: u64) -> Result<SeccompRule, seccompiler::BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)?])
}

fn differs(argument: u8, value: u64) -> Result<SeccompRule, seccompiler::BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, value)?])
}

fn masked(argument: u8, mask: u64, value: u64) -> Result<SeccompRule, seccompiler::BackendError> {
    let operator = SeccompCmpOp::MaskedEq(mask);
    SeccompRule::new(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)?])
}

fn none_of(argument: u8, values: &[i32]) -> Result<SeccompRule, seccompiler::BackendError> {
    let conditions = values.iter().map(|&value| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, u64::from(value.unsigned_abs()))
    });
    SeccompRule::new(conditions.collect::<Result<_, _>>()?)
}

/// The death signal ties a run to its agent; it must not be able to cut that.
const PR_SET_PDEATHSIG: u64 = 1;
const PR_SET_MM: u64 = 35;
const TIOCLINUX: u64 = 0x541c;

/// Answered as on a kernel that lacks them, so that libraries fall back: `clone3` hides its flags from filters; the others
/// hold memory that counts as nobody's.
const ABSENT: &[c_long] = &[
    libc::SYS_clone3,
    libc::SYS_memfd_create,
    libc::SYS_memfd_secret,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_msgget,
    libc::SYS_semget,
    libc::SYS_mq_open,
];

const REFUSED: &[c_long] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_adjtimex,
    libc::SYS_bpf,
    libc::SYS_chroot,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_fanotify_mark,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_kcmp,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_lookup_dcookie,
    libc::SYS_migrate_pages,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_move_pages,
    libc::SYS_name_to_handle_at,
    libc::SYS_nfsservctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_personality,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_process_madvise,
    libc::SYS_process_mrelease,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
    #[cfg(target_arch = "x86_64")]
    libc::SYS__sysctl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_sysfs,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_uselib,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ustat,
];

const REFUSED_TO_BUILTIN: &[c_long] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_send_signal,
    libc::SYS_tkill,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
];

const REFUSED_TO_LITE: &[c_long] = &[
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    // fchmodat2, for which libc has no name on every architecture.
    452,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fremovexattr,
    libc::SYS_fsetxattr,
    libc::SYS_inotify_init1,
    libc::SYS_ioprio_set,
    libc::SYS_listen,
    libc::SYS_lremovexattr,
    libc::SYS_lsetxattr,
    libc::SYS_removexattr,
    libc::SYS_setpriority,
    libc::SYS_setxattr,
    libc::SYS_socket,
    libc::SYS_truncate,
    libc::SYS_utimensat,
    // setxattrat, removexattrat, file_setattr.
    463,
    466,
    469,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chmod,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_futimesat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_inotify_init,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lchown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_utime,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_utimes,
];

/// Calls whose first argument names a process, 0 being oneself.
const CALLS_ON_OTHERS: &[c_long] = &[
    libc::SYS_prlimit64,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_setattr,
    libc::SYS_sched_setparam,
    libc::SYS_sched_setscheduler,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_run_has_filters_that_compile() {
        for confinement in [Confinement::Full, Confinement::Lite] {
            for builtin in [true, false] {
                assert!(programs(Subject { confinement, builtin, pid: 1 }).unwrap().len() >= 2);
            }
        }
    }
}
