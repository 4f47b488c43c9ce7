with users as (
    select
        dt,
        user_id,
        count(*) as clusters,
        sum(size) as actions
    from {{ source('users', 'medoids') }}
    where dt between '{{ var("first_dt") }}' and '{{ var("last_dt") }}'
    group by all
)

select
    dt,
    clusters,
    count(*) as users,
    avg(actions) as mean_actions
from users
group by all
